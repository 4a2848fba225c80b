"""Style, script and icon of the landing page."""

from __future__ import annotations

from tpw.exposition.colours import BAD, GOOD, STATES

_STATES = ";".join(f"--{state}:{css}" for state, (css, _) in {**STATES, "good": GOOD, "lost": BAD}.items())

ICON = (
    "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath fill='%230f8a6a' "
    "d='M9 0 2 9h4.5L6 16l8-10H9z'/%3E%3C/svg%3E"
)

STYLE = (
    f":root{{{_STATES}}}"
    """
:root{--bg:#f7f7f4;--panel:#fff;--ink:#1d2321;--soft:#69716d;--line:#e6e7e2;--track:#e9ebe6}
@media (prefers-color-scheme:dark){:root{--bg:#131716;--panel:#1a1f1d;--ink:#e6eae7;--soft:#8f9994;--line:#272e2b;
--track:#2a312e}}
[hidden]{display:none!important}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:2rem 1.5rem 3rem;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;font-variant-numeric:tabular-nums}
header{display:flex;flex-wrap:wrap;align-items:baseline;justify-content:space-between;gap:.25rem 1.5rem}
h1{font-size:1.35rem;font-weight:600;letter-spacing:-.01em;margin:0}
h1 small{font-size:1rem;font-weight:400;color:var(--soft);letter-spacing:0}
h2{font-size:.95rem;font-weight:600;margin:2.25rem 0 .6rem}
p{margin:0}
.health{color:var(--soft);display:flex;align-items:center;gap:.5rem;font-size:.9rem}
.health time{padding-left:.5rem;border-left:1px solid var(--line)}
i{display:inline-block;width:.5rem;height:.5rem;border-radius:50%;background:var(--idle);flex:none}
.good i{background:var(--good)}.warn i{background:var(--parked)}.stale i{background:var(--lost)}
.tiles{display:grid;grid-template-columns:repeat(3,1fr);gap:1px;margin:1.25rem 0 0;border:1px solid var(--line);
border-radius:10px;background:var(--line);overflow:hidden}
.tile{background:var(--panel);padding:1rem 1.25rem 1.1rem;min-width:0}
dt{color:var(--soft);font-size:.85rem}
dd{margin:0}
dd b{font-size:2rem;line-height:1.25;font-weight:500;letter-spacing:-.02em}
dd small{color:var(--soft);font-size:.9rem}
.note{color:var(--soft);font-size:.85rem}
.none b{color:var(--soft);font-weight:400}
.facts{display:flex;flex-wrap:wrap;gap:.2rem 1.75rem;margin:.9rem 0 0;font-size:.85rem}
.facts dt,.facts dd{display:inline}.facts dt{margin-right:.35rem}
.facts dd b{font-size:inherit;font-weight:500;letter-spacing:0}
.scroll{overflow-x:auto;background:var(--panel);border:1px solid var(--line);border-radius:10px}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.55rem .9rem;vertical-align:top;white-space:nowrap}
th{font-size:.8rem;font-weight:500;color:var(--soft);border-bottom:1px solid var(--line)}
tr+tr td,tbody+tbody td{border-top:1px solid var(--line)}
tr+tr td.same{border-top-color:transparent}
th button{all:unset;cursor:pointer;white-space:nowrap}th button:focus-visible{outline:2px solid var(--active)}
th[aria-sort] button{color:var(--ink)}th[aria-sort=descending] button::after{content:" \\25be"}
th[aria-sort=ascending] button::after{content:" \\25b4"}
.tools{display:flex;flex-wrap:wrap;align-items:center;gap:.5rem 1.25rem;margin:1.75rem 0 -.75rem;font-size:.85rem;
color:var(--soft)}
.tools label{display:flex;align-items:center;gap:.4rem}.tools output{margin-left:auto}
.tools input,.tools select{font:inherit;color:var(--ink);background:var(--panel);border:1px solid var(--line);
border-radius:6px;padding:.3rem .5rem;width:14rem}.tools select{width:auto}
.narrow{visibility:hidden;position:absolute}
.spark{width:4.5rem;height:.9em;vertical-align:-.1em;margin:0 .5rem;overflow:visible}
.spark polyline{fill:none;stroke:var(--active);stroke-width:1.5;vector-effect:non-scaling-stroke}
td b{font-weight:600}
td small{color:var(--soft);font-size:.85rem}
td b+small,td code+small{display:block}
.name{white-space:normal;min-width:22rem;max-width:26rem}
.n{text-align:right}
.wrap{white-space:normal;min-width:16rem;color:var(--soft)}
.hint{color:var(--ink)}
.model{max-width:18rem;overflow:hidden;text-overflow:ellipsis}
.state i{margin-right:.5rem;vertical-align:.05rem}
.state i{background:var(--idle)}.state.ok i{background:var(--good)}.state.active i{background:var(--active)}
.state.parked i{background:var(--parked)}.state.starting i{background:var(--starting)}
.state.other i{background:var(--other)}.state.planned_off i{background:var(--planned_off)}
.state.lost i,.state.down i,.state.failing i{background:var(--lost)}
.state.lost,.state.down,.state.failing{font-weight:600}
.state.idle,.state.waiting,.state.unread,.state.not-yet{color:var(--soft)}
.power{min-width:9rem}
.bar{display:block;width:100%;height:4px;margin-top:.25rem;border-radius:2px;background:var(--track)}
.bar rect{fill:var(--active)}
tr:has(.parked) .bar rect{fill:var(--parked)}tr:has(.starting) .bar rect{fill:var(--starting)}
tr:has(.other) .bar rect{fill:var(--other)}
tr:has(.idle) .bar rect{fill:var(--idle)}
.empty{color:var(--soft);background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:1rem 1.25rem}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,"Noto Sans Mono",monospace}
ul{margin:0;padding-left:1.2rem;color:var(--soft)}
main.text{max-width:48rem}.text p,.text ul,.text ol{margin:.5rem 0}.text ul{color:inherit}
footer{margin-top:2.5rem;padding-top:1rem;border-top:1px solid var(--line);display:flex;flex-wrap:wrap;gap:.25rem 1.5rem;
font-size:.9rem;color:var(--soft)}
footer span{margin-left:auto}
a{color:inherit;text-decoration:underline;text-decoration-color:var(--line);text-underline-offset:.2em}
a:hover{text-decoration-color:currentColor}
@media (max-width:48rem){body{padding:1.25rem 1rem 2rem}.tiles{grid-template-columns:repeat(2,1fr)}
.tile{padding:.75rem .9rem .85rem}dd b{font-size:1.5rem}
main thead{display:none}main table,main tbody,main tr,main td{display:block;width:auto;max-width:none;min-width:0}
main tr{display:grid;grid-template-columns:repeat(6,1fr);gap:.1rem 1.25rem;padding:.7rem .9rem}
main tr+tr,main tbody+tbody{border-top:1px solid var(--line)}
main tbody tr td{padding:.05rem 0;border:0;display:flex;justify-content:space-between;gap:.5rem;white-space:normal;
text-align:right;grid-column:span 3;overflow-wrap:anywhere}
main tbody tr td.lead{grid-column:span 4;gap:.35rem;flex-wrap:wrap}main tbody tr td.state{grid-column:span 2}
main tbody tr td.n{white-space:nowrap}main tbody tr td.name{grid-column:1/-1;display:block}
main td .spark{display:none}
main td::before{flex:0 9999 auto;overflow-wrap:normal;content:attr(data-head);color:var(--soft);font-size:.85rem;
white-space:normal;text-align:left}
main td.lead,main td.model,main td.state,main td.power,main td.wrap{text-align:left;justify-content:flex-start}
main td.lead::before,main td.model::before,main td.state::before,main td.power::before,main td.wrap::before{content:none}
main td.state{justify-content:flex-end;align-items:center}main .state i{margin:0}
main tbody tr td.model,main tbody tr td.power,main tbody tr td.wrap{grid-column:1/-1}
main tbody tr td.wrap,main tbody tr td.power{display:block}
main tbody tr td.same,main tbody tr td.wrap:empty{display:none}main .lead b+small{display:inline}
.narrow{visibility:visible;position:static}.tools label{flex:1 1 9rem}.tools input,.tools select{min-width:0;width:100%}}
"""
)

SCRIPT = """
(function(){
var live=document.getElementById('live'),every=live.dataset.every*1000,since=0,last=live.innerHTML,curves={};
var state={sort:{},filter:'',namespace:''},units={'':1,k:1e3,M:1e6,G:1e9,T:1e12};
function byId(id){return document.getElementById(id)}
function same(a,b){
 if(a.nodeType!==b.nodeType||a.nodeName!==b.nodeName)return a.replaceWith(b.cloneNode(true));
 if(a.nodeType===3){if(a.data!==b.data)a.data=b.data;return}
 for(var i=0;i<b.attributes.length;i++){var t=b.attributes[i];
  if(a.getAttribute(t.name)!==t.value)a.setAttribute(t.name,t.value)}
 for(i=a.attributes.length-1;i>=0;i--)if(!b.hasAttribute(a.attributes[i].name))a.removeAttribute(a.attributes[i].name);
 children(a,b);
}
function children(a,b){
 while(a.childNodes.length>b.childNodes.length)a.lastChild.remove();
 for(var i=0;i<b.childNodes.length;i++)
  if(i<a.childNodes.length)same(a.childNodes[i],b.childNodes[i]);
  else a.appendChild(b.childNodes[i].cloneNode(true));
}
function number(text){
 var found=/^(-?[\\d,.]+(?:e-?\\d+)?)\\s*([kMGT]?)/.exec(text);
 return found?parseFloat(found[1].replace(/,/g,''))*units[found[2]]:null;
}
function value(body,column,isNumber){
 if(!isNumber)return body.rows[0].cells[column].textContent;
 return Array.prototype.reduce.call(body.rows,function(most,row){
  var one=number(row.cells[column].textContent);
  return one===null?most:most===null?one:Math.max(most,one)},null);
}
function order(table,by){
 var column=by.column,isNumber=table.tHead.rows[0].cells[column].className!=='';
 var rows=Array.prototype.map.call(table.tBodies,function(body){return[value(body,column,isNumber),body]});
 rows.sort(function(x,y){
  var a=x[0],b=y[0];
  if(a===null||b===null)return(a===null)-(b===null);
  return(isNumber?a-b:a.localeCompare(b,undefined,{numeric:true}))*(by.down?-1:1)});
 rows.forEach(function(row){table.appendChild(row[1])});
}
function curve(cell,key,add){
 var past=curves[key]=curves[key]||[],most=0;
 if(add){past.push(number(cell.textContent)||0);if(past.length>60)past.shift()}
 past.forEach(function(one){most=Math.max(most,one)});
 if(past.length<2||!most)return;
 cell.insertAdjacentHTML(cell.nodeName==='TD'?'afterbegin':'beforeend',
  '<svg class=spark viewBox="0 0 59 10" preserveAspectRatio=none aria-hidden=true>'+
  '<polyline points="'+past.map(function(one,n){return(60-past.length+n)+','+(10-10*one/most).toFixed(1)}).join(' ')+
  '"/></svg>');
}
function arranged(text,add){
 var page=new DOMParser().parseFromString('<main>'+text+'</main>','text/html').querySelector('main'),counts=[];
 page.querySelectorAll('.tile[data-curve] dd:nth-of-type(1)').forEach(function(cell){
  curve(cell,cell.parentNode.firstChild.textContent,add)});
 page.querySelectorAll('table[id]').forEach(function(table){
  var by=state.sort[table.id],shown=0,all=table.tBodies.length;
  Array.prototype.forEach.call(table.tHead.rows[0].cells,function(head,column){
   head.innerHTML='<button type=button>'+head.innerHTML+'</button>';
   if(by&&by.column===column)head.setAttribute('aria-sort',by.down?'descending':'ascending')});
  Array.prototype.forEach.call(table.tBodies,function(body){
   var isShown=(!state.filter||body.textContent.toLowerCase().indexOf(state.filter.toLowerCase())>=0)&&
    (!state.namespace||(body.dataset.namespaces||'').split(' ').indexOf(state.namespace)>=0);
   body.hidden=!isShown;shown+=isShown;
   body.querySelectorAll('[data-curve]').forEach(function(cell){
    curve(cell,body.rows[0].cells[0].textContent+'/'+cell.previousSibling.textContent,add)})});
  if(by&&by.column<table.tHead.rows[0].cells.length)order(table,by);
  counts.push((shown<all?shown+' of ':'')+all+' '+table.closest('section').firstChild.textContent.replace(/^S/,'s'));
 });
 var tools=page.querySelector('#tools');
 if(tools&&counts.length){tools.hidden=false;tools.querySelector('output').textContent=counts.join(', ')}
 return page;
}
function show(add){
 children(live,arranged(last,add));
 var filter=byId('filter'),spaces=byId('namespace'),sort=byId('sort'),by=state.sort.servers;
 if(filter&&filter.value!==state.filter)filter.value=state.filter;
 if(spaces&&spaces.value!==state.namespace){
  spaces.value=state.namespace;
  if(spaces.value!==state.namespace)spaces.add(new Option(state.namespace,state.namespace,0,1))}
 if(sort)sort.value=by?by.column+(by.down?'-':'+'):'';
}
function keep(){
 var words=new URLSearchParams();
 if(state.filter)words.set('filter',state.filter);
 if(state.namespace)words.set('namespace',state.namespace);
 Object.keys(state.sort).forEach(function(id){words.set(id,state.sort[id].column+(state.sort[id].down?'-':'+'))});
 history.replaceState(null,'',words.toString()?'#'+words:location.pathname+location.search);
 show(false);
}
function by(text){var found=/^(\\d+)([-+])$/.exec(text);return found?{column:+found[1],down:found[2]==='-'}:undefined}
function choose(id,chosen){if(chosen)state.sort[id]=chosen;else delete state.sort[id];keep()}
live.addEventListener('click',function(event){
 var head=event.target.closest('th'),table=head&&head.closest('table[id]');
 if(!table)return;
 var now=state.sort[table.id],column=head.cellIndex,down=head.className!=='';
 if(!now||now.column!==column)choose(table.id,{column:column,down:down});
 else choose(table.id,now.down===down?{column:column,down:!down}:undefined);
});
live.addEventListener('input',function(event){
 if(event.target.id==='filter'){state.filter=event.target.value;keep()}
 if(event.target.id==='namespace'){state.namespace=event.target.value;keep()}
 if(event.target.id==='sort')choose('servers',by(event.target.value));
});
new URLSearchParams(location.hash.slice(1)).forEach(function(text,name){
 if(name==='filter'||name==='namespace')state[name]=text;else if(by(text))state.sort[name]=by(text)});
function stale(){
 since=since||Date.now();
 var health=byId('health');
 if(health){health.className='health stale';
  health.querySelector('span').textContent='no response for '+Math.round((Date.now()-since)/1000)+' s; values are stale'}
}
function turn(){
 if(document.hidden)return again();
 fetch('api/v1/status?view=html',{cache:'no-store'}).then(function(answer){
  if(!answer.ok)throw new Error(answer.status);return answer.text()
 }).then(function(text){last=text;show(true);since=0}).catch(stale).then(again);
}
function again(){setTimeout(turn,every)}
document.addEventListener('visibilitychange',function(){if(!document.hidden&&since)turn()});
show(true);
again();
})();
"""
